"""Answers a customer: JSON output with a retry, a tool, two drafts at once, and a choice.

On the openai client, as it would be without flowtune: nothing here knows of it. It is trained as a
function, or as a program that reads an example and prints a result:

    flowtune train pipeline.py:run --data orders.jsonl --reward rewards.py:score --gold must_say
    flowtune train --program "python pipeline.py" --data orders.jsonl ...
"""

import asyncio
import json
import sys

from openai import AsyncOpenAI

ORDERS = {"A17": "left the warehouse on Monday", "B42": "is waiting for payment"}
SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "string"}},
    "required": ["order"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "order", "schema": SCHEMA}}
STYLES = ("briefly", "warmly")


async def ask(client, model, content, **more):
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], **more
    )
    return answer.choices[0].message.content


async def find_order(client, question):
    for attempt in range(2):
        text = f"Which order is this about?\n{question}" + "\nThink again." * attempt
        try:
            order = json.loads(await ask(client, "extract", text, response_format=FORMAT))["order"]
        except ValueError:  # an answer that was cut off is no JSON
            continue
        if order in ORDERS:
            return order
    return None


async def look_up(order):
    await asyncio.sleep(0.01)  # a service, say
    return ORDERS.get(order, "is not known")


async def run(example, client):
    question = example["question"]
    order = await find_order(client, question)
    found = f"Order {order} {await look_up(order)}."
    prompts = [f"{question}\n{found}\nAnswer {style}." for style in STYLES]
    drafts = await asyncio.gather(*[ask(client, "draft", prompt) for prompt in prompts])
    choice = await ask(client, "choose", f"Which answer is better?\n1: {drafts[0]}\n2: {drafts[1]}")
    return {"order": order, "answer": drafts["2" in choice]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.load(sys.stdin), AsyncOpenAI()))))
