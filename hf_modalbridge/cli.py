"""The command `modalbridge`: thin commands over library functions.

To add a command, write a function with `@_command("a worked example")` here; its docstring, one sentence, is its
help. Errors of the library need no handling: `main` prints them as one paragraph.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_modalbridge.cli_words import files_by_modality, read_settings

__all__ = ["app", "main"]

app = typer.Typer(
    name="modalbridge",
    help="Let a language model read a modality for which complete paired data does not exist.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

CorrectionType = enum.StrEnum(
    "CorrectionType",
    [
        "none",
        "mean_shift",
        "c3",
        "c3_shift",
        "gr",
        "block_covariance",
        "realign",
        "aniso_align",
        "procrustes",
        "subspace_cca",
        "diffusion_link",
    ],
)
Side = enum.StrEnum("Side", ["source", "target"])
StoreDtype = enum.StrEnum("StoreDtype", ["float16", "float32", "float64"])

Function = TypeVar("Function", bound=Callable[..., None])


def _command(example: str, note: str = "", **settings: Any) -> Callable[[Function], Function]:
    """Register a command; its help is its docstring and one worked example, set as typed."""

    def register(function: Function) -> Function:
        example_block = f"\b\nExample{f' ({note})' if note else ''}:\n    {example}"
        return app.command(help=f"{function.__doc__}\n\n{example_block}", context_settings=settings)(function)

    return register


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]


# ---- embeddings -----------------------------------------------------------------------------------------


@_command(
    "modalbridge embed openai/clip-vit-base-patch32 captions.csv stores/text --modality text",
    note="captions.csv has the columns id and text",
)
def embed(
    encoder: Annotated[str, typer.Argument(help="Dual encoder: directory or repo id.")],
    items: Annotated[Path, typer.Argument(help="Table of items: .jsonl, .csv, .tsv or .parquet.")],
    out: Annotated[Path, typer.Argument(help="Folder of the store to write.")],
    modality: Annotated[str, typer.Option(help="What the items are: text, image, audio, ...")],
    column: Annotated[str | None, typer.Option(help="Column of the items; default: the modality.")] = None,
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    batch_size: Annotated[int, typer.Option(min=1, help="Items in a pass through the encoder.")] = 32,
    dtype: Annotated[StoreDtype, typer.Option(help="Of the store.")] = StoreDtype.float16,
    device: Annotated[str, typer.Option(help="Where the encoder runs: cpu, cuda, ...")] = "cpu",
    revision: Revision = None,
    overwrite: Overwrite = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the repo's code.")] = False,
) -> None:
    """Embed a table of items into a store; a run that was stopped goes on when started again."""
    from hf_modalbridge.data.embed import embed_items
    from hf_modalbridge.data.items import read_items
    from hf_modalbridge.encoders import load_encoder

    model, processor = load_encoder(encoder, revision, trust_remote_code=trust_remote_code)
    store = embed_items(
        model.to(device),
        processor,
        modality,
        read_items(items, modality, column=column, id_column=id_column),
        out,
        batch_size=batch_size,
        dtype=dtype.value,
        id=encoder,
        revision=revision,
        overwrite=overwrite,
    )
    _say(f"{len(store):,} {modality} embeddings of width {store.dim} in {out}")


# ---- corrections ----------------------------------------------------------------------------------------


@_command("modalbridge fit stores/text stores/image corrections/realign --type realign")
def fit(
    source: Annotated[Path, typer.Argument(help="Store of the source side, usually text.")],
    target: Annotated[Path, typer.Argument(help="Store of the target modality.")],
    out: Annotated[Path, typer.Argument(help="Directory of the correction to write.")],
    type: Annotated[
        CorrectionType, typer.Option("--type", "--method", help="Which correction.")
    ] = CorrectionType.realign,
    pairs: Annotated[
        str | None,
        typer.Option(help="Few-pair corrections: column of both stores whose equal values pair rows; default: id."),
    ] = None,
    hyper: Annotated[
        list[str] | None, typer.Option(help="Hyper-parameter of the type, NAME=VALUE; may be repeated.")
    ] = None,
    noise_norm: Annotated[float | None, typer.Option(help="C3 only: length of the noise, sigma * sqrt(dim).")] = None,
    seed: Annotated[int, typer.Option(help="For corrections that draw random numbers.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit a correction of the modality gap on two stores; only few-pair corrections need rows that correspond."""
    from hf_modalbridge.corrections import AutoCorrection
    from hf_modalbridge.store import EmbeddingStore

    _refuse_existing(out, overwrite)
    settings = read_settings(hyper or []) | ({} if noise_norm is None else {"noise_norm": noise_norm})
    stores = EmbeddingStore.open(source), EmbeddingStore.open(target)
    kind = AutoCorrection.from_type(type.value)
    if pairs is not None:
        settings["pairs"] = pairs
    correction = kind.fit(*stores, seed=seed, progress=True, **settings)
    correction.save_pretrained(out)
    gap = float((correction.source_mean - correction.target_mean).norm())
    _say(
        f"{type.value} fitted on {correction.source_rows:,} source and {correction.target_rows:,} target rows "
        f"(centroid gap {gap:.4f}) in {out}"
    )


@_command("modalbridge apply corrections/realign stores/text stores/text-realigned")
def apply(
    correction: Annotated[str, typer.Argument(help="Directory or repo id of a correction or model.")],
    store: Annotated[Path, typer.Argument(help="Store to read.")],
    out: Annotated[Path, typer.Argument(help="Folder of the store to write.")],
    side: Annotated[Side, typer.Option(help="Which side the store is of.")] = Side.source,
    modality: Annotated[str | None, typer.Option(help="Of a model with several.")] = None,
    revision: Revision = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Send a store through a correction; ids and columns come along."""
    from hf_modalbridge.corrections import AutoCorrection, apply_correction
    from hf_modalbridge.store import EmbeddingStore

    loaded = AutoCorrection.from_pretrained(correction, modality, revision)
    written = apply_correction(
        loaded,
        EmbeddingStore.open(store),
        out,
        side=side.value,
        resume=resume,
        overwrite=overwrite,
        progress=True,
    )
    _say(f"{len(written):,} embeddings through {loaded.correction_type} in {out}")


@_command(
    "modalbridge report stores/text stores/image --corrected realign mean_shift --pairs --html report.html",
    note="rows with the same id belong together; both types are fitted on one half and measured on the other",
)
def report(
    source: Annotated[Path, typer.Argument(help="Store of the source side, usually text.")],
    target: Annotated[Path, typer.Argument(help="Store of the target modality.")],
    more: Annotated[list[str] | None, typer.Argument(help="Further names for --corrected.", show_default=False)] = None,
    corrected: Annotated[
        list[str] | None,
        typer.Option(help="Compare: directory of a correction or model, store of corrected rows, or a type to fit."),
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Rows with equal ids belong together: adds pairs.")] = False,
    pair_column: Annotated[str | None, typer.Option(help="Pair rows by this column of both stores.")] = None,
    modality: Annotated[str | None, typer.Option(help="Of a model with several.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots.")] = None,
    numbers: Annotated[Path | None, typer.Option("--json", help="Write the numbers.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Most query rows of a side, and most pairs.")] = 10_000,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the intervals; 0: none.")] = 200,
    seed: Annotated[int, typer.Option(help="Of samples, splits and resamples.")] = 0,
) -> None:
    """Report the modality gap between two stores, compare corrections side by side, and recommend one."""
    from hf_modalbridge.evaluation.gap_inputs import report_on_stores
    from hf_modalbridge.store import EmbeddingStore

    if more and not corrected:
        raise ValueError(f"got more than two stores: {' '.join(more)}. Name corrections after --corrected.")
    result = report_on_stores(
        EmbeddingStore.open(source),
        EmbeddingStore.open(target),
        [*(corrected or []), *(more or [])],
        pair_column=pair_column or ("id" if pairs else None),
        modality=modality,
        sample=sample,
        bootstrap=bootstrap,
        seed=seed,
        progress=sys.stderr.isatty(),
    )
    for path, text in ((html, result.to_html), (numbers, result.to_json), (markdown, result.to_markdown)):
        if path is not None:
            path.write_text(text() + "\n", encoding="utf-8")
    result.print(_console())


# ---- anything -------------------------------------------------------------------------------------------


@_command("modalbridge info stores/text --verify")
def info(
    path: Annotated[str, typer.Argument(help="Store, correction or model: directory or repo id.")],
    revision: Revision = None,
    online: Annotated[bool, typer.Option("--online", help="Ask the Hub for licences not known here.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also check every byte of a store.")] = False,
) -> None:
    """Say what is in a store, correction or model, with the licences of encoder and language model."""
    from hf_modalbridge.inspection import describe

    for title, facts in describe(path, revision, online).items():
        table = Table(show_header=False)
        for label, value in facts.items():
            table.add_row(label, escape(value))
        _console().print(f"[bold]{escape(title)}[/bold]", table)
    if verify:
        from hf_modalbridge.store import EmbeddingStore

        EmbeddingStore.open(path, allow_incomplete=True).verify()
        _say("every file has the sha256 that the manifest says")


# ---- models ---------------------------------------------------------------------------------------------


@_command(
    'modalbridge chat --model runs/modalbridge-pc/stage2/model --points chair.glb "What is this?"',
    note="--images FILE, --touch FILE and so on, by the names of the modalities that the model reads",
    ignore_unknown_options=True,
)
def chat(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [FILE] [QUESTION]...", help="Model, unless --model names it; the item's file; questions."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model: directory or repo id.")] = None,
    store: Annotated[Path | None, typer.Option(help="Instead of a file: a store of embeddings.")] = None,
    row: Annotated[str | None, typer.Option(help="Id or number of the row in the store.")] = None,
    modality: Annotated[str | None, typer.Option(help="What it is, if the model reads several.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Ask this and stop; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, ...")] = "cpu",
    revision: Revision = None,
) -> None:
    """Chat in the terminal about a file or a stored embedding; an empty line ends it."""
    files, plain = files_by_modality(words or [])
    if model is None:
        if not plain:
            raise ValueError("which model? Give --model DIRECTORY_OR_REPO, or the same as the first word.")
        model = plain.pop(0)
    if not files and store is None and plain:
        files = [(modality, Path(plain.pop(0)))]
    if len(files) > 1:
        raise ValueError(
            f"a chat is about one item, but there are {len(files)}: {', '.join(str(f) for _, f in files)}."
        )
    file = None
    if files:
        ((modality, file),) = files
    from hf_modalbridge.models.conversation import Conversation

    conversation = Conversation.open(
        model,
        file=file,
        store=store,
        row=row,
        modality=modality,
        device=device,
        revision=revision,
        max_new_tokens=max_new_tokens,
    )
    questions = [*plain, *(ask or [])]
    for question in questions:
        _say(conversation.ask(question))
    while not questions and (question := typer.prompt("you", default="", show_default=False)):
        _say(f"model: {conversation.ask(question)}")


@_command("modalbridge demo --model runs/demo/realign/stage2/model --port 7860", note="needs the extra `space`")
def demo(
    model: Annotated[
        str | None, typer.Option(help="Model: directory or repo id; default: what `make demo` leaves.")
    ] = None,
    points: Annotated[str | None, typer.Option(help="A second model, for point clouds.")] = None,
    stores: Annotated[Path | None, typer.Option(help="Folder of the demo's stores; default: beside the model.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; default: the first free one from 7860 on.")] = None,
) -> None:
    """Open the demo in a browser: chat, imagine, explore a gap, bring your own modality."""
    from hf_modalbridge.space import serve

    serve(model, points, stores, host, port)


# ---- sharing --------------------------------------------------------------------------------------------


@_command("modalbridge push runs/demo/realign/stage2/model org/modalbridge-demo --private")
def push(
    directory: Annotated[Path, typer.Argument(help="Store, correction, model, aligner, encoder or processor.")],
    repo: Annotated[str, typer.Argument(help="Repo id on the Hub, such as org/name.")],
    private: Annotated[bool | None, typer.Option("--private/--public", help="Of a new repo.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; made if missing.")] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle/--no-bundle", help="Let a model take its code along, for trust_remote_code.")
    ] = True,
) -> None:
    """Upload a directory to the Hub, download it again into an empty cache, and compare files and outputs."""
    from hf_modalbridge.hub import push as push_directory

    done = push_directory(directory, repo, private=private, revision=revision, bundle=bundle)
    _say(f"{done.kind}: {done.files} files, {done.size / 1e6:,.1f} MB at {done.url}")
    _say(f"came back the same: {', '.join(done.compared[:6])}{' ...' if len(done.compared) > 6 else ''}")


def _console() -> Console:
    """Make a console that wraps on terminals and does not cut text in files."""
    return Console(width=None if sys.stdout.isatty() else 160)


def _say(text: str) -> None:
    """Print one plain line."""
    typer.echo(text)


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Keep what is already written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise FileExistsError(f"{out} exists and is not empty. Pass --overwrite, or choose another path.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that the library foresees are printed as one paragraph.

    Args:
        arguments: Without the program's name; those of the process by default.

    Raises:
        SystemExit: Always: 0 after success, 1 after an error, 2 for a wrong command line.
    """
    try:
        app(arguments, prog_name="modalbridge")  # prints usage errors itself and exits with 2
    except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"Error: {' '.join(str(message).split())}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
