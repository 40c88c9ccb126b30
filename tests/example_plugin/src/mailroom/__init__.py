"""Mailroom: a small task for flowtune, the example of its tutorial."""
