"""Reading records: what an example holds, and an error with file, line and field for bad ones."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest

from flowtune_cli import DataError
from flowtune_musique.records import Document, Gold, example_of, read_examples


def read(path, pairs=False):
    return list(read_examples(path, pairs=pairs))


def test_an_example_holds_the_question_the_documents_and_the_gold(write, record):
    path = write([record(documents=2, support=(1,), aliases=["crimson"])])
    (example,) = read(path)
    assert example.id == "2hop__11_22"
    assert example.record_id == "2hop__11_22"
    assert example.question == "Which colour is it?"
    assert example.documents == (
        Document(0, "T0", "Fact number 0."),
        Document(1, "T1", "Fact number 1."),
    )
    assert example.gold == Gold(("red", "crimson"), frozenset({1}), True)


def test_a_document_shows_its_title_and_its_content():
    assert str(Document(3, "Oslo", "A city.")) == "Title: Oslo\nContent: A city."


def test_the_two_records_of_a_full_pair_are_told_apart_by_their_paragraphs(write, record):
    path = write(
        [record(documents=2), record(documents=2, marker="!", answerable=False)], "f.jsonl"
    )
    first, second = read(path, pairs=True)
    digest = hashlib.sha256(b"Fact number 0.\n\nFact number 1.").hexdigest()
    assert first.id == f"2hop__11_22@{digest[:8]}"
    assert second.id.startswith("2hop__11_22@")
    assert second.id != first.id
    assert [first.record_id, second.record_id] == ["2hop__11_22"] * 2
    assert [first.gold.answerable, second.gold.answerable] == [True, False]


def test_a_test_record_has_no_gold(write, record):
    (example,) = read(write([record(labels=False)]))
    assert example.gold is None


def test_blank_lines_are_passed_over_and_counted(write, record):
    path = write([record(), "", "  ", "{"])
    with pytest.raises(DataError, match=r"records\.jsonl:4: not a line of JSON"):
        read(path)


def broken(record, *path, value=None):
    """A record with one field taken out, or set to another value."""
    changed = record()
    place = changed
    for part in path[:-1]:
        place = place[part]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("id",), None, "field 'id': Field required"),
        (("id",), 17, "field 'id': Input should be a valid string"),
        (("question",), None, "field 'question': Field required"),
        (("question",), "", "field 'question': String should have at least 1 char"),
        (("paragraphs",), None, "field 'paragraphs': Field required"),
        (("paragraphs",), [], "field 'paragraphs': Tuple should have at least 1 item"),
        (("paragraphs", 2, "title"), None, "field 'paragraphs.2.title': Field required"),
        (
            ("paragraphs", 2, "idx"),
            "2",
            "field 'paragraphs.2.idx': Input should be a valid int",
        ),
        (("paragraphs", 2, "idx"), 1, "field 'paragraphs': two paragraphs have the same idx"),
        (("paragraphs", 1, "is_supporting"), None, "field 'paragraphs.1.is_supporting' is missing"),
        (("paragraphs", 1, "is_supporting"), "no", "field 'paragraphs.1.is_supporting': Input"),
        (("answer",), None, "field 'answer' is missing, though other labels are there"),
        (("answer",), ["red"], "field 'answer': Input should be a valid string"),
        (("answer",), " ", "field 'answer' is blank in an answerable record"),
        (("answer_aliases",), None, "field 'answer_aliases' is missing"),
        (("answer_aliases",), [1], "field 'answer_aliases.0': Input should be a valid string"),
        (("answerable",), None, "field 'answerable' is missing"),
        (("answerable",), 1, "field 'answerable': Input should be a valid boolean"),
    ],
)
def test_a_bad_field_is_named_with_its_line(path, value, message, write, record):
    file = write([record("2hop__0"), broken(record, *path, value=value)])
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}:2: {message}")


@pytest.mark.parametrize("line", ['{"id": "2hop__1"', "not json", "\\x00", '{"id": "\\ud800"}'])
def test_malformed_json_is_named_with_its_line(line, write, record):
    file = write([record(), line])
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}:2: not a line of JSON: ")


def test_a_lone_surrogate_is_read_as_its_escape(write, record):
    content = record()
    content["question"] = "a \ud800 b \U0001f600?"
    path = write([content])
    assert "\\ud800 b \\ud83d" in path.read_text()
    (example,) = read(path)
    assert example.question == "a \\ud800 b \U0001f600?"


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "latin.jsonl"
    file.write_bytes(b'{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:1: not UTF-8: byte 0xe9"):
        read(file)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_may_be_compressed_and_have_a_byte_order_mark(mark, write, record):
    file = write([record("2hop__1"), record("2hop__2")])
    expected = read(file)
    file.write_bytes(gzip.compress(mark + file.read_bytes()))
    assert read(file) == expected


def test_a_line_that_is_not_an_object_is_named(write):
    with pytest.raises(DataError, match=r"records\.jsonl:1: Input should be an object"):
        read(write(["[]"]))


@pytest.mark.parametrize("lines", [[], ["", " "]])
def test_a_file_without_records_is_an_error(lines, write):
    with pytest.raises(DataError, match=r"records\.jsonl: there are no records"):
        read(write(lines))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read: No such file"):
        read(tmp_path / "none.jsonl")


def test_an_id_stands_once_in_answerable(write, record):
    file = write([record("2hop__1"), record("2hop__2"), record("2hop__1", marker="!")])
    with pytest.raises(DataError, match=r"records\.jsonl:3: the id '2hop__1' stands in line 1 al"):
        read(file)


def test_an_id_stands_twice_in_full_and_no_more(write, record):
    twice = [record(), record(marker="!", answerable=False)]
    assert len(read(write(twice), pairs=True)) == 2
    file = write([*twice, record(marker="?")])
    with pytest.raises(DataError, match=r":3: the id '2hop__11_22' stands in line 1 and 2 already"):
        read(file, pairs=True)


def test_the_same_record_twice_is_not_a_pair(write, record):
    file = write([record(), record(answerable=False)])
    with pytest.raises(DataError, match=r":2: this record has the id and the paragraphs of line 1"):
        read(file, pairs=True)


def test_an_unanswerable_record_is_none_of_answerable(write, record):
    file = write([record(answerable=False)])
    with pytest.raises(DataError, match="the task for it is 'musique-full'"):
        read(file)


def test_unknown_fields_are_passed_over(write, record):
    (example,) = read(write([record() | {"later": {"added": 1}}]))
    assert set(example.inputs) == {"question", "documents", "record_id"}


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("variant", ["ans", "full"])
def test_the_official_files_are_read_whole(variant, split, real_data):
    file = real_data / f"musique_{variant}_v1.0_{split}.jsonl"
    examples = read(file, pairs=variant == "full")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [example.record_id for example in examples] == [line["id"] for line in lines]
    assert [len(example.documents) for example in examples] == [
        len(line["paragraphs"]) for line in lines
    ]
    assert len({example.id for example in examples}) == len(examples)
    if split == "test":
        assert all(example.gold is None for example in examples)
        return
    for example, line in zip(examples, lines, strict=True):
        assert example.gold.answerable == line["answerable"]
        assert example.gold.answers == (line["answer"], *line["answer_aliases"])
        texts = {p["paragraph_text"] for p in line["paragraphs"] if p["is_supporting"]}
        assert {d.text for d in example.documents if d.idx in example.gold.support} == texts


def test_inputs_of_ones_own_need_no_numbers_and_have_no_labels(record):
    whole = record()
    paragraphs = [
        {key: paragraph[key] for key in ("title", "paragraph_text")}
        for paragraph in whole["paragraphs"]
    ]
    example = example_of({"question": whole["question"], "paragraphs": paragraphs})
    assert (example.id, example.gold) == ("input", None)
    assert [d.idx for d in example.documents] == list(range(len(paragraphs)))
    assert example.documents[0].title == paragraphs[0]["title"]
    assert (
        example_of({"question": whole["question"], "paragraphs": whole["paragraphs"]}).gold is None
    )


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"question": "Who?"}, "the input: field 'paragraphs'"),
        ({"question": "Who?", "documents": []}, "the input has 'documents'; it wants a question"),
        ({"question": 1, "paragraphs": [{"title": "a", "paragraph_text": "b"}]}, "'question'"),
        ({"question": "Who?", "paragraphs": [{"title": "a"}]}, r"paragraphs\.0\.paragraph_text"),
        ({"question": "Who?", "paragraphs": ["text"]}, r"paragraphs\.0"),
        ({"question": "Who?", "paragraphs": {1, 2}}, "the input: "),
    ],
)
def test_inputs_that_are_no_record(inputs, said):
    with pytest.raises(DataError, match=said):
        example_of(inputs)
