"""Are vectors those of the program that ships the weights, and what do they cost?

    python -m benchmarks.embeddings vectors MODEL.gguf TEXTS [REFERENCE.npy]
    python -m benchmarks.embeddings search [ROWS]

`vectors` computes those of the lines of TEXTS, together and one by one: the speed, and the largest difference. With
REFERENCE, an array with a row for each line, it prints their cosines (goal: at least 0.999) and the lines below that.
`search` prints the time and the memory of a search in a store of ROWS random vectors (100,000) of 384 numbers.
"""

import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np

from llmcli.inference.embedding import EmbeddingModel
from llmcli.inference.resolved_model import ResolvedModel
from llmcli.models.locations import ModelFile
from llmcli.params.settings import Settings
from llmcli.pipelines.text_source import Text
from llmcli.pipelines.vector_search import search
from llmcli.pipelines.vector_store import StoreIdentity, VectorStore

_GOAL = 0.999
_N_DIMS = 384
_CHUNK = 1000  # vectors


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "search":
        measure_search(int(arguments[0]) if arguments else 100_000)
    else:
        measure_vectors(*map(Path, arguments))


def measure_vectors(path: Path, texts: Path, reference: Path | None = None) -> None:
    lines = texts.read_text(encoding="utf-8").splitlines()
    target = ResolvedModel(ModelFile(path, (path,), path.stem))
    with closing(EmbeddingModel(target, Settings())) as model:
        begin = perf_counter()
        together = [*model.embed(lines, truncate=True)]
        middle = perf_counter()
        alone = [one for line in lines for one in model.embed([line], truncate=True)]
        end = perf_counter()
    n_tokens = sum(one.n_tokens for one in together)
    vectors, others = (np.stack([one.vector for one in some if one.vector is not None]) for some in (together, alone))
    print(f"{len(lines)} texts, {n_tokens} tokens, vectors of {vectors.shape[1]} numbers, pooling {model.pooling}")
    print(f"together: {n_tokens / (middle - begin):.0f} tokens/s, one by one: {n_tokens / (end - middle):.0f} tokens/s")
    print(f"smallest cosine of a vector together and alone: {np.sum(vectors * others, axis=1).min():.6f}")
    if reference:
        expected = np.load(reference)
        cosines = np.sum(vectors * expected, axis=1) / np.linalg.norm(expected, axis=1)
        print(f"cosine to the reference: smallest {cosines.min():.6f}, median {np.median(cosines):.6f} (goal {_GOAL})")
        for number in np.flatnonzero(cosines < _GOAL):
            print(f"below the goal: {cosines[number]:.4f} {lines[number]!r}")


def measure_search(n_rows: int) -> None:
    source = np.random.default_rng(1)
    identity = StoreIdentity("random", "random", "0" * 64, "mean", _N_DIMS)
    with TemporaryDirectory() as folder, closing(VectorStore(Path(folder) / "random.db", identity)) as store:
        for start in range(0, n_rows, _CHUNK):
            rows = source.normal(size=(_CHUNK, _N_DIMS)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            store.add([(Text(f"text {start + at}"), row) for at, row in enumerate(rows)])
        seconds = []
        for _ in range(3):
            begin = perf_counter()
            hits = search(store, rows[7], 5)
            seconds.append(perf_counter() - begin)
    assert hits[0].text.text == f"text {n_rows - _CHUNK + 7}"
    print(f"search in {n_rows} vectors of {_N_DIMS} numbers: {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
