"""The tables of a run's store, and their version.

Every row except ``timings`` depends on the run's seed and settings alone: keys count through the
run, so a resumed run writes the same rows again.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..flow.errors import UsageError

SCHEMA_VERSION = 7

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE batches (
    number INTEGER PRIMARY KEY,         -- from 0
    first_episode INTEGER NOT NULL,
    episodes INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,        -- 1: a checkpoint was made after it
    adapter_versions TEXT NOT NULL,     -- JSON: node to version
    total_failed INTEGER NOT NULL,      -- episodes from the run's start through this batch
    total_truncated INTEGER NOT NULL,
    total_shortened INTEGER NOT NULL
);
CREATE INDEX batches_with_checkpoint ON batches (number) WHERE checkpoint = 1;

-- The task's nodes as they were set when the run began or was last resumed.
CREATE TABLE nodes (
    name TEXT PRIMARY KEY,
    learn TEXT NOT NULL,
    reward TEXT,
    evaluator TEXT,                     -- its name
    alternatives INTEGER NOT NULL,      -- tried at each call
    weight REAL NOT NULL
);

-- Each node's totals from the run's start through this batch: see running_totals.py.
CREATE TABLE node_totals (
    batch INTEGER NOT NULL,
    node TEXT NOT NULL,
    calls INTEGER NOT NULL,             -- in the episodes themselves
    failed_calls INTEGER NOT NULL,      -- of these, in episodes that failed
    announced INTEGER NOT NULL,         -- of these, with a reward announced as undefined
    alternatives INTEGER NOT NULL,      -- found at these calls
    outputs INTEGER NOT NULL,           -- in episodes, alternatives and rollouts
    truncated INTEGER NOT NULL,         -- of these, cut off
    prompt_tokens INTEGER NOT NULL,     -- of the same
    tokens INTEGER NOT NULL,            -- of the outputs of the same
    better INTEGER NOT NULL,            -- rollouts of its deviations, by outcome
    worse INTEGER NOT NULL,
    ties INTEGER NOT NULL,
    undefined INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    evaluator_failed INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    unreported INTEGER NOT NULL,        -- of the skipped: its reward was not reported after it
    preferences INTEGER NOT NULL,
    margins REAL,                       -- sum of its preferences' margins; NULL: one was infinite
    targets INTEGER NOT NULL,
    data INTEGER NOT NULL,              -- what its updates learned from
    reference_moves INTEGER NOT NULL,   -- how often its reference moved
    PRIMARY KEY (batch, node)
);

-- Prompts, each once; batch is the first that used it.
CREATE TABLE texts (sha256 BLOB PRIMARY KEY, text TEXT NOT NULL, batch INTEGER NOT NULL);
CREATE INDEX texts_by_batch ON texts (batch);

CREATE TABLE examples (
    id TEXT PRIMARY KEY,
    question TEXT NOT NULL,             -- one line
    gold TEXT,                          -- JSON
    batch INTEGER NOT NULL              -- the first that used it
);

CREATE TABLE episodes (
    number INTEGER PRIMARY KEY,         -- from 0
    batch INTEGER NOT NULL,
    example_id TEXT NOT NULL,
    result TEXT,                        -- JSON
    error TEXT,
    traceback TEXT,
    steps INTEGER NOT NULL,
    truncated INTEGER NOT NULL,         -- steps whose output was cut off
    dropped_tokens INTEGER NOT NULL,    -- prompt tokens that were cut to fit
    rollouts INTEGER NOT NULL,
    preferences INTEGER NOT NULL,
    best_gain REAL                      -- the highest mean gain of an alternative's rollouts
);
CREATE INDEX episodes_by_example ON episodes (example_id);
CREATE INDEX episodes_failed ON episodes (number) WHERE error IS NOT NULL;

CREATE TABLE rewards (
    episode INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- in the order of the reward events
    name TEXT NOT NULL,
    value REAL,                         -- NULL: undefined
    steps INTEGER NOT NULL,             -- calls made before it
    PRIMARY KEY (episode, number)
);

-- The episode's own steps have rollout 0. A rollout has the steps from its deviation on: the first
-- one is substituted (its output is also in alternatives, and no call was made).
CREATE TABLE steps (
    episode INTEGER NOT NULL,
    rollout INTEGER NOT NULL,
    step INTEGER NOT NULL,              -- from 0, through the whole flow
    node TEXT NOT NULL,
    prompt BLOB NOT NULL,               -- texts.sha256
    output TEXT NOT NULL,
    adapter_version INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    tokens INTEGER NOT NULL,            -- of the output
    logprob REAL,                       -- nats
    truncated INTEGER NOT NULL,
    dropped_tokens INTEGER NOT NULL,
    substituted INTEGER NOT NULL,
    detail TEXT,                        -- JSON
    PRIMARY KEY (episode, rollout, step)
);
CREATE INDEX steps_by_node ON steps (node, episode) WHERE rollout = 0;
CREATE INDEX steps_truncated ON steps (node) WHERE truncated = 1 AND substituted = 0;

CREATE TABLE alternatives (
    episode INTEGER NOT NULL,
    step INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- from 1; the greedy output is in steps
    node TEXT NOT NULL,
    text TEXT NOT NULL,
    logprob REAL,
    tokens INTEGER NOT NULL,
    truncated INTEGER NOT NULL,
    PRIMARY KEY (episode, step, number)
);
CREATE INDEX alternatives_truncated ON alternatives (node) WHERE truncated = 1;

CREATE TABLE rollouts (
    episode INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- from 1
    step INTEGER NOT NULL,
    node TEXT NOT NULL,
    alternative INTEGER NOT NULL,
    ending INTEGER NOT NULL,            -- from 0, of the same alternative: each has its own noise
    outcome TEXT NOT NULL,
    greedy_reward REAL,
    alternative_reward REAL,
    gain REAL,
    reason TEXT NOT NULL,               -- why there is no gain
    traceback TEXT,
    stopped_early INTEGER NOT NULL,
    result TEXT,                        -- JSON
    PRIMARY KEY (episode, number)
);
CREATE INDEX rollouts_by_outcome ON rollouts (outcome, node, episode);

-- The prompts that evaluators showed the model about a rollout.
CREATE TABLE evaluator_calls (
    episode INTEGER NOT NULL,
    rollout INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- from 0
    prompt BLOB NOT NULL,               -- texts.sha256
    answers TEXT NOT NULL,              -- JSON: [text, logprob in nats] of each
    dropped_tokens INTEGER NOT NULL,    -- of the request's prompts
    PRIMARY KEY (episode, rollout, number)
);

-- What flows did besides calling nodes. Those of the episode itself have rollout 0; a rollout has
-- those after its deviation.
CREATE TABLE effects (
    episode INTEGER NOT NULL,
    rollout INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- from 0
    steps INTEGER NOT NULL,             -- calls made before it
    name TEXT NOT NULL,                 -- the function's
    args TEXT NOT NULL,                 -- JSON
    result TEXT,                        -- JSON; NULL: it raised
    error TEXT,
    again INTEGER NOT NULL,             -- 1: a rollout's, with the end of the episode's own
    PRIMARY KEY (episode, rollout, number)
);

-- Requests of programs that were answered with an error. Rollouts as in effects.
CREATE TABLE request_errors (
    episode INTEGER NOT NULL,
    rollout INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- from 0, in the order of messages
    message TEXT NOT NULL,
    code TEXT,                          -- its kind
    place TEXT,                         -- the file and line that asked
    PRIMARY KEY (episode, rollout, number)
);

CREATE TABLE preferences (
    episode INTEGER NOT NULL,
    step INTEGER NOT NULL,
    alternative INTEGER NOT NULL,
    node TEXT NOT NULL,
    chosen TEXT NOT NULL,
    rejected TEXT NOT NULL,
    margin REAL NOT NULL,
    PRIMARY KEY (episode, step, alternative)
);
CREATE INDEX preferences_by_node ON preferences (node, margin);

CREATE TABLE targets (
    episode INTEGER NOT NULL,
    number INTEGER NOT NULL,
    step INTEGER NOT NULL,
    node TEXT NOT NULL,
    gold TEXT,                          -- JSON
    PRIMARY KEY (episode, number)
);
CREATE INDEX targets_by_node ON targets (node);

CREATE TABLE updates (
    batch INTEGER NOT NULL,
    node TEXT NOT NULL,
    version_before INTEGER NOT NULL,
    version_after INTEGER NOT NULL,
    data INTEGER NOT NULL,
    preferences INTEGER NOT NULL,
    targets INTEGER NOT NULL,
    loss REAL,
    margin REAL,
    accuracy REAL,
    gradient_norm REAL,
    reference_drift REAL,
    PRIMARY KEY (batch, node)
);
CREATE INDEX updates_with_loss ON updates (node, batch) WHERE loss IS NOT NULL;

CREATE TABLE metrics (
    batch INTEGER NOT NULL,
    name TEXT NOT NULL,
    window REAL,
    overall REAL,
    defined INTEGER NOT NULL,
    undefined INTEGER NOT NULL,
    PRIMARY KEY (batch, name)
);

CREATE TABLE reference_updates (
    batch INTEGER NOT NULL,
    node TEXT NOT NULL,
    moved INTEGER NOT NULL,
    PRIMARY KEY (batch, node)
);
CREATE INDEX references_moved ON reference_updates (batch) WHERE moved = 1;

-- Evaluations on held-out examples, each of a checkpoint.
CREATE TABLE evaluations (
    episodes INTEGER PRIMARY KEY,       -- trained on before it
    batch INTEGER NOT NULL,             -- how many batches that were
    examples INTEGER NOT NULL,          -- played
    failed INTEGER NOT NULL,            -- of these; no figure counts them
    metric TEXT NOT NULL                -- the figure that says which checkpoint is the best
);

CREATE TABLE evaluation_figures (
    episodes INTEGER NOT NULL,
    number INTEGER NOT NULL,            -- from 0
    name TEXT NOT NULL,
    value REAL,                         -- NULL: undefined
    defined INTEGER,                    -- examples; NULL: the task has computed it from all
    batch INTEGER NOT NULL,
    PRIMARY KEY (episodes, number)
);

-- The only rows that differ between two runs of the same seed.
CREATE TABLE timings (
    batch INTEGER NOT NULL,
    phase TEXT NOT NULL,
    seconds REAL NOT NULL,
    total REAL NOT NULL,                -- from the run's start through this batch
    PRIMARY KEY (batch, phase)
);
"""

# The column of each table that says which batch a row belongs to. Other tables have an episode;
# meta and nodes are of the whole run.
BY_BATCH = {
    "batches": "number",
    "texts": "batch",
    "examples": "batch",
    "episodes": "batch",
    "updates": "batch",
    "metrics": "batch",
    "reference_updates": "batch",
    "timings": "batch",
    "node_totals": "batch",
}
# These have how many batches were before them.
AFTER_BATCH = ("evaluations", "evaluation_figures")
BY_EPISODE = (
    "rewards",
    "steps",
    "alternatives",
    "rollouts",
    "evaluator_calls",
    "effects",
    "request_errors",
    "preferences",
    "targets",
)


def create(connection: sqlite3.Connection) -> None:
    """Create the tables, all or none."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {SCHEMA}"
        f"INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}'); COMMIT;"
    )


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the database has no tables."""
    return connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the database has the tables of this version.

    Raises:
        UsageError: it has not; says why.
    """
    if is_empty(connection):
        raise UsageError(f"{path} is empty: its run has not written anything yet")
    tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'"
    row = None
    if connection.execute(tables).fetchone():
        query = "SELECT value FROM meta WHERE key = 'schema_version'"
        row = connection.execute(query).fetchone()
    if row is None or not str(row[0]).isdigit():
        raise UsageError(f"{path} is a database, but not a run's store")
    version = int(row[0])
    if version != SCHEMA_VERSION:
        kind = "a newer" if version > SCHEMA_VERSION else "an older"
        raise UsageError(
            f"{path} was written by {kind} flowtune: its tables have version {version}, and this"
            f" flowtune reads version {SCHEMA_VERSION}. Use the flowtune version that the run's"
            ' run.json lists under "versions".'
        )
