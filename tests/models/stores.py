"""Write the stores of Ollama and LM Studio for tests, from an existing GGUF file."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

KIND = "application/vnd.ollama.image."


def add_ollama_model(
    store: Path,
    place: str,
    source: Path | None,
    projector: Path | None = None,
    kinds: tuple[str, ...] = ("model",),
    template: str = "{{ .Prompt }}",
) -> Path:
    """Put a model into an Ollama store as `ollama pull` does, and give its manifest.

    `place` is HOST/NAMESPACE/MODEL/TAG; MODEL/TAG alone is in Ollama's own library. `source` becomes one layer of
    each of `kinds`; None leaves them out, as for a model that runs elsewhere.
    """
    layers = [add_blob(store, source, kind) for kind in kinds] if source else []
    if projector:
        layers.append(add_blob(store, projector, "projector"))
    layers += [_text(store, "template", template), _text(store, "params", '{"stop":["</s>"]}')]
    config = _text(store, "", '{"model_format":"gguf","model_family":"llama"}')
    config["mediaType"] = "application/vnd.docker.container.image.v1+json"
    path = store / "manifests" / (place if place.count("/") == 3 else f"registry.ollama.ai/library/{place}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(path, config=config, layers=layers)
    return path


def write_manifest(path: Path, **values: Any) -> None:
    """Write a manifest with these values, sound or not; every other one is as Ollama writes it."""
    head = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
    path.write_text(json.dumps(head | values), encoding="utf-8")


def add_blob(store: Path, source: Path, kind: str) -> dict[str, Any]:
    """Put a file into the store's blobs and give the layer that names it."""
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _place(source, store / "blobs" / f"sha256-{digest}")
    return {"mediaType": KIND + kind, "digest": f"sha256:{digest}", "size": source.stat().st_size}


def add_lmstudio_model(folder: Path, repo: str, source: Path, name: str = "") -> Path:
    """Put a file into a folder as LM Studio does, OWNER/REPOSITORY/FILE.gguf, and give its path."""
    path = folder / repo / (name or source.name)
    _place(source, path)
    return path


def _text(store: Path, kind: str, text: str) -> dict[str, Any]:
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    (store / "blobs").mkdir(parents=True, exist_ok=True)
    (store / "blobs" / f"sha256-{digest}").write_bytes(data)
    return {"mediaType": KIND + kind, "digest": f"sha256:{digest}", "size": len(data)}


def _place(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    try:
        os.link(source, path)
    except OSError:  # another file system
        shutil.copy(source, path)
