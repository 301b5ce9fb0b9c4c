"""The Space: python spaces/modalbridge/app.py, or `modalbridge demo`.

On the Hub the variable MODALBRIDGE_MODEL names the model repo; at home the model is what `make demo` leaves.
"""

from __future__ import annotations

import os

from hf_modalbridge.space import serve

if __name__ == "__main__":
    serve(
        model=os.environ.get("MODALBRIDGE_MODEL"),
        points=os.environ.get("MODALBRIDGE_POINTS_MODEL"),
        stores=os.environ.get("MODALBRIDGE_STORES"),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ["GRADIO_SERVER_PORT"]) if "GRADIO_SERVER_PORT" in os.environ else None,
    )
