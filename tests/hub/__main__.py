"""Run the test hub by hand: python -m tests.hub [--starter FILE.gguf] [--throttle N] [--token T]."""

import argparse
import tempfile
import threading
from pathlib import Path

from tests.hub.server import FakeHub
from tests.models.gguf_writer import write_gguf
from tests.models.split_writer import split_model

_KINDS = ("Q2_K", "Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0")


def fill(hub: FakeHub, model: Path, folder: Path) -> None:
    """Three repositories made of one model: many quantizations, a split one, and a gated one."""
    stem = "SmolLM2-135M-Instruct"
    files: dict[str, bytes | Path] = {f"{stem}-{kind}.gguf": model for kind in _KINDS}
    extra: dict[str, bytes | Path] = {f"mmproj-{stem}-f16.gguf": model, "README.md": b"# SmolLM2\n"}
    hub.add(f"test/{stem}-GGUF", files | extra, downloads=4321, likes=12, parameters=134_515_008)
    parts = split_model(model, folder, 3)
    split: dict[str, bytes | Path] = {f"Q4_K_M/{part.name.replace('model', stem)}": part for part in parts}
    hub.add("test/split-GGUF", split, downloads=99, parameters=134_515_008)
    hub.add("test/gated-GGUF", {f"{stem}-Q4_K_M.gguf": model}, license_id="llama3.2", gated="manual", downloads=7)


def main() -> None:
    """Serve until Ctrl-C; for each request a line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub")
    parser.add_argument("--starter", type=Path, help="the model to serve (a tiny one is written if not given)")
    parser.add_argument("--throttle", type=int, help="bytes per second of a connection")
    parser.add_argument("--token", default="hf_right", help="the token that opens the gated repository")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, FakeHub() as hub:
        hub.throttle, hub.token = options.throttle, options.token
        fill(hub, options.starter or write_gguf(Path(folder) / "tiny.gguf"), Path(folder))
        hub.repos["test/gated-GGUF"].granted = True
        try:
            print(f"export HF_ENDPOINT={hub.endpoint}", flush=True)
            _print_log(hub)
        except KeyboardInterrupt:
            return


def _print_log(hub: FakeHub) -> None:
    clock = threading.Event()
    shown = 0
    while not clock.wait(0.5):
        for request in hub.log[shown:]:
            print(
                f"{request.origin:5} {request.method:4} {request.status} {request.path} {request.range or ''}",
                flush=True,
            )
            shown += 1


if __name__ == "__main__":
    main()
