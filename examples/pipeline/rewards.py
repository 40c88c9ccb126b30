"""What a result is worth: half for the right order, half for saying what has to be said."""


def score(example, result):
    right = result["order"] == example["order"]
    said = example["must_say"].lower() in (result["answer"] or "").lower()
    return (right + said) / 2
