"""An agent in LangGraph. Nothing here knows flowtune: where the model is comes from outside."""

import json
import os
import sys

from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from tools import look_up

model = ChatOpenAI(model="agent", base_url=os.environ["OPENAI_BASE_URL"]).bind_tools([look_up])


def agent(state: MessagesState) -> dict:
    return {"messages": [model.invoke(state["messages"])]}


graph = StateGraph(MessagesState)
graph.add_node("agent", agent)
graph.add_node("tools", ToolNode([look_up]))
graph.add_edge(START, "agent")
graph.add_conditional_edges("agent", tools_condition)
graph.add_edge("tools", "agent")

example = json.load(sys.stdin)
asked = [("system", "You answer questions about orders."), ("user", example["question"])]
messages = graph.compile().invoke({"messages": asked})["messages"]
print(json.dumps({"answer": messages[-1].content}))
