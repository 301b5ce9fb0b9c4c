"""Processor of `DualEncoderModel`: an image processor and a tokenizer, saved together."""

from __future__ import annotations

from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from hf_modalbridge.encoders.image_processing import EfficientNetLiteImageProcessor

__all__ = ["DualEncoderProcessor"]


class DualEncoderProcessor(ProcessorMixin):
    """Prepare pictures and texts for a `DualEncoderModel`.

    Args:
        image_processor: What prepares the pictures.
        tokenizer: What prepares the texts.
        **kwargs: Kept by transformers' base class.
    """

    def __init__(self, image_processor: EfficientNetLiteImageProcessor, tokenizer: PreTrainedTokenizerBase, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all inputs that the processor may give."""
        return [*self.image_processor.model_input_names, *self.tokenizer.model_input_names]

    def __call__(self, images=None, text=None, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """Prepare pictures, texts or both.

        Args:
            images: One picture or a list of them; see `read_image`.
            text: One text or a list of them.
            return_tensors: "pt" for tensors, "np" for arrays.
            **kwargs: Options of the tokenizer, beyond padding and truncation, which are on.

        Returns:
            `pixel_values` `(images, 3, height, width)` float32 and the tokenizer's `input_ids`,
            `attention_mask` `(texts, tokens)`, for what was given.

        Raises:
            ValueError: If neither pictures nor texts are given.
        """
        if images is None and text is None:
            raise ValueError("DualEncoderProcessor got neither images nor text; give one or both.")
        out = {}
        if text is not None:
            out.update(
                self.tokenizer(text, return_tensors=return_tensors, **{"padding": True, "truncation": True, **kwargs})
            )
        if images is not None:
            out.update(self.image_processor(images, return_tensors=return_tensors))
        return BatchFeature(out)

    def batch_decode(self, *args, **kwargs):
        """Decode token ids with the tokenizer."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args, **kwargs):
        """Decode token ids with the tokenizer."""
        return self.tokenizer.decode(*args, **kwargs)
