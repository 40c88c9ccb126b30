"""An agent in OpenAI's Agents SDK. Nothing here knows flowtune: the model comes from outside."""

import json
import os
import sys

from agents import (
    Agent,
    AsyncOpenAI,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from tools import look_up

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=os.environ["OPENAI_BASE_URL"])
agent = Agent(
    name="orders",
    instructions="You answer questions about orders.",
    model=OpenAIChatCompletionsModel(model="agent", openai_client=client),
    tools=[function_tool(look_up)],
)

example = json.load(sys.stdin)
print(json.dumps({"answer": Runner.run_sync(agent, example["question"]).final_output}))
