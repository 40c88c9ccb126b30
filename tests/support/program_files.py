"""Small programs, their data and their rewards, as files of a test."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

FUNCTION = """
async def run(example, client):
    draft = await client.chat.completions.create(
        model="draft", messages=[{"role": "user", "content": f"Draft {example['question']}"}]
    )
    text = draft.choices[0].message.content
    final = await client.chat.completions.create(
        model="write", messages=[{"role": "user", "content": f"Write {text}"}]
    )
    return {"text": final.choices[0].message.content, "draft": text}
"""

REWARD = """
def score(example, result):
    return (sum(map(ord, str(result))) + len(example["answer"])) % 11 / 10
"""

ASK = """
import json, os, sys, urllib.request

def ask(model, content):
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json",
         "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]
"""
"""The beginning of a program that has no packages: ``ask(model, content)``."""

PROGRAM = (
    ASK
    + """
example = json.load(sys.stdin)
draft = ask("draft", f"Draft {example['question']}")
print("working", file=sys.stderr)
print(json.dumps({"text": ask("write", f"Write {draft}"), "draft": draft}))
"""
)

WORKER = (
    ASK
    + """
for line in sys.stdin:
    example = json.loads(line)
    print(json.dumps({"text": ask("draft", example["question"]), "pid": os.getpid()}), flush=True)
"""
)


def write_data(path: Path, size: int = 6) -> Path:
    """JSONL with a question and an answer in each line."""
    lines = [
        json.dumps({"id": f"e{n}", "question": f"what is {n}", "answer": "x" * n})
        for n in range(size)
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def script(path: Path, text: str) -> str:
    """The command that runs a Python script without packages of its own."""
    path.write_text(text, encoding="utf-8")
    return f"{sys.executable} -S {path}"


def executable(path: Path, text: str) -> str:
    """A file that can be started by itself."""
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def records(path: Path) -> list[Any]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def forget_modules(folder: Path) -> None:
    """What a test has imported from a folder is imported anew by the next one."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(folder):
            del sys.modules[name]
