"""Two drafts by LiteLLM in threads, and the better one of them. Nothing here knows flowtune."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from litellm import completion


def ask(model: str, text: str) -> str:
    answer = completion(
        model=f"openai/{model}",
        messages=[{"role": "user", "content": text}],
        api_base=os.environ["OPENAI_BASE_URL"],
    )
    return answer.choices[0].message.content


example = json.load(sys.stdin)
with ThreadPoolExecutor() as threads:
    styles = ("briefly", "kindly")
    drafts = list(
        threads.map(lambda how: ask("draft", f"Answer {how}: {example['question']}"), styles)
    )
best = ask("agent", f"Which is better, 1 or 2?\n1: {drafts[0]}\n2: {drafts[1]}")
print(json.dumps({"answer": drafts["2" in best]}))
