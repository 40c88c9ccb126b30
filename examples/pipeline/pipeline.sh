#!/usr/bin/env bash
# Answers a customer with bash, curl and jq. Where the model is comes from outside:
#
#   flowtune train --program ./pipeline.sh --data orders.jsonl --reward rewards.py:score ...
set -euo pipefail

ask() { # MODEL CONTENT
    jq -n --arg model "$1" --arg content "$2" \
        '{model: $model, messages: [{role: "user", content: $content}]}' |
        curl -sS --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
            -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" -d @- |
        jq -r '.choices[0].message.content'
}

question=$(jq -r .question)
order=$(ask extract "Which order is this about? Its number alone.
$question")
answer=$(ask draft "$question
It is about order $order. Answer briefly.")
jq -n --arg order "$order" --arg answer "$answer" '{order: $order, answer: $answer}'
