"""An agent in PydanticAI. Nothing here knows flowtune: where the model is comes from outside."""

import json
import os
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from tools import look_up

provider = OpenAIProvider(base_url=os.environ["OPENAI_BASE_URL"])
agent = Agent(
    OpenAIChatModel("agent", provider=provider),
    system_prompt="You answer questions about orders.",
    tools=[look_up],
)

example = json.load(sys.stdin)
print(json.dumps({"answer": agent.run_sync(example["question"]).output}))
