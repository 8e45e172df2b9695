# SPDX-License-Identifier: Apache-2.0
"""The demo's shipped data: sentence pairs, queries, trained adapters and the card's tables."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

# At the end, so that the source folder never hides an installed shira_runtime.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from examples.minilm import pairs

FOLDER = Path(pairs.__file__).parent
ADAPTERS = sorted(path.parent for path in FOLDER.glob("adapters/*/adapter_model.safetensors"))
FOREIGN_LETTERS = {"de": "äöüß", "fr": "éèêàçôœûî", "ru": "жшщыэюяй"}


@pytest.mark.parametrize("language", pairs.LANGUAGES)
def test_pairs_are_well_formed(language):
    text = (FOLDER / "pairs" / f"{language}.tsv").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert text.endswith("\n")
    assert lines[0] == "id\tenglish\tforeign"
    loaded = pairs.load_pairs(language)
    assert len(loaded) == len(lines) - 1 >= 250
    for line in lines[1:]:
        fields = line.split("\t")
        assert len(fields) == 3
        assert all(field and field == field.strip() for field in fields), line
        assert re.fullmatch(r"[a-z-]+-\d\d[a-e]", fields[0]), line
        assert fields[1].isascii() or "é" in fields[1] or "í" in fields[1], line
        assert fields[1] != fields[2]
        assert all(field[-1] in ".?!" for field in fields[1:]), line
    for column in ("id", "english", "foreign"):
        values = [getattr(pair, column) for pair in loaded]
        assert len(set(values)) == len(values), column
    for letter in FOREIGN_LETTERS[language]:
        assert letter in text, letter


def test_languages_share_ids_and_english():
    columns = [
        [(pair.id, pair.english) for pair in pairs.load_pairs(language)]
        for language in pairs.LANGUAGES
    ]
    assert columns[0] == columns[1] == columns[2]


def test_every_sentence_has_hard_negatives():
    groups: dict[str, list[str]] = {}
    for pair in pairs.load_pairs("de"):
        groups.setdefault(pair.id[:-1], []).append(pair.id[-1])
    for name, letters in groups.items():
        assert "".join(letters) in {"abc", "abcd", "abcde"}, name


def test_russian_is_cyrillic():
    for pair in pairs.load_pairs("ru"):
        letters = [letter for letter in pair.foreign if letter.isalpha()]
        cyrillic = [letter for letter in letters if "\u0400" <= letter <= "\u04ff"]
        assert 2 * len(cyrillic) > len(letters), pair


@pytest.mark.parametrize("language", pairs.LANGUAGES)
def test_demo_queries_name_pairs(language):
    queries = pairs.demo_queries(language)
    assert len(queries) >= 5
    assert len(set(queries)) == len(queries)


def read_adapter(folder: Path) -> dict[str, Any]:
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    return safetensors_numpy.load_file(folder / "adapter_model.safetensors")


def adapter_masks(folder: Path) -> dict[str, set[tuple[int, int]]]:
    return {
        name: set(map(tuple, tensor.T.tolist()))
        for name, tensor in read_adapter(folder).items()
        if name.endswith(".shira_indices")
    }


def weight_shape(name: str) -> tuple[int, int]:
    if ".intermediate." in name:
        return 1536, 384
    if name.endswith(".output.dense.shira_indices") and ".attention." not in name:
        return 384, 1536
    return 384, 384


def test_the_adapters_are_there():
    names = {folder.name for folder in ADAPTERS}
    assert names == {"minilm-de", "minilm-de-random", "minilm-fr", "minilm-ru"}
    assert names == set(json.loads((FOLDER / "adapters" / "train_results.json").read_text()))


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda folder: folder.name)
def test_adapter_covers_the_encoder_exactly(folder):
    tensors = read_adapter(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    index_names = [name for name in tensors if name.endswith(".shira_indices")]
    assert len(index_names) == 36
    assert len(tensors) == 72
    for name in index_names:
        rows, columns = weight_shape(name)
        indices = tensors[name]
        values = tensors[name.replace(".shira_indices", ".shira_weight")]
        entry_count = config["r"] * (rows + columns)
        assert indices.shape == (2, entry_count)
        assert values.shape == (entry_count,)
        assert values.dtype == numpy.float32
        assert numpy.isfinite(values).all()
        assert numpy.count_nonzero(values) > 0.9 * entry_count
        assert (indices >= 0).all()
        assert (indices.max(axis=1) < (rows, columns)).all()
        flat = indices[0].astype(numpy.int64) * columns + indices[1]
        assert (numpy.diff(flat) > 0).all(), name
        starts = flat.reshape(-1, 16)[:, :1]
        in_blocks = (starts % 16 == 0).all() and (
            flat.reshape(-1, 16) == starts + numpy.arange(16)
        ).all()
        assert in_blocks == (config["mask_type"] == "random_block"), name


def test_masks_differ_between_layers_and_adapters():
    seen: list[tuple[str, set[tuple[int, int]]]] = []
    for folder in ADAPTERS:
        for name, mask in adapter_masks(folder).items():
            for other_name, other in seen:
                if weight_shape(name) == weight_shape(other_name):
                    assert len(mask & other) < len(mask) / 4, (folder.name, name, other_name)
            seen.append((name, mask))


def test_no_machine_paths_in_what_training_left():
    for path in (FOLDER / "adapters").rglob("*"):
        if path.suffix in {".json", ".log"}:
            assert not re.search(r"(?<![\w:/])/(home|root|tmp|work|usr)/", path.read_text()), path


# PEFT asks transformers for an attribute by a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("scales", [{"minilm-de": 1.0}, {"minilm-de": 0.5, "minilm-fr": 0.25}])
def test_adapters_load_in_peft_onto_the_pinned_base(scales):
    pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from examples.minilm.evaluate import merged_encoder
    from examples.minilm.model import model_folder

    try:
        model_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))

    expected = merged_encoder({}).state_dict()
    for adapter, scale in scales.items():
        tensors = read_adapter(FOLDER / "adapters" / adapter)
        for name in filter(lambda name: name.endswith(".shira_indices"), tensors):
            layer = name.removesuffix(".shira_indices")
            rows, columns = torch.from_numpy(tensors[name]).long()
            values = torch.from_numpy(tensors[f"{layer}.shira_weight"])
            layer = layer.removeprefix("base_model.model.")
            expected[f"{layer}.weight"][rows, columns] += scale * values
    for name, weight in merged_encoder(scales).state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_changed_weights_are_refused(tmp_path):
    pytest.importorskip("transformers")
    from examples.minilm.model import load_encoder

    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"model\.safetensors: expected sha256 53aa5117"):
        load_encoder(tmp_path)


def test_the_card_shows_the_committed_results():
    pytest.importorskip("peft")
    from examples.minilm import evaluate

    card = evaluate.CARD_PATH.read_text(encoding="utf-8")
    results = json.loads(evaluate.RESULTS_PATH.read_text(encoding="utf-8"))
    records = json.loads(evaluate.TRAIN_RESULTS_PATH.read_text(encoding="utf-8"))
    assert evaluate.render_card(card, results, records) == card


def test_adapters_clearly_improve_the_shipped_pairs():
    results = json.loads((FOLDER / "eval_results.json").read_text(encoding="utf-8"))
    scores = {(row["state"], row["task"]): row for row in results["scores"]}
    for language in ("de", "fr"):
        for corpus in ("shipped pairs", "debian-faq"):
            base = scores["base", f"{corpus} {language} -> en"]
            adapted = scores[f"minilm-{language}", f"{corpus} {language} -> en"]
            gain = adapted["mrr"] - base["mrr"]
            assert gain > 3 * (base["mrr_standard_error"] + adapted["mrr_standard_error"]) / 2
        assert 0.40 <= scores["base", f"shipped pairs {language} -> en"]["mrr"] <= 0.75
