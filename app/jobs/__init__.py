"""The life of a job, from the row that says it was accepted to the row that says how it ended.

    submission.py     requests become jobs (group commit); queue.py has their units delivered (PgQueuer);
                      channel_queue.py the same in a process beside SQLite
    inherited_rows.py rows that a job begins with: of the job it is a retry of, or of the plan it carries out
    transitions.py    the state machine: allowed moves, counts; outbox.py saves them with their notifications,
                      and reports them: log events, metrics, spans
    cancellation.py   what has not begun is cancelled at once
    policy_jobs.py    whole runs and pushes of policies, each in a concurrency group
    push_jobs.py      push events that arrived become jobs
    event_stream.py   progress of jobs, for all watchers of a process
    retention.py      old rows are deleted, a few at a time

Rows are the truth; the queue only says which unit to look at. A unit is claimed under a fencing token, which every
later write of that claim checks.
"""
