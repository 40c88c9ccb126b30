"""Programs as tasks: a function on an OpenAI client, or any executable, with data and a reward."""
