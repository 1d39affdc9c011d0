"""What a worker process does: claim a unit, plan it or copy it, record what became of it.

worker.py           the process: units run until it stops, periodic tasks beside them
runner.py           one unit: claim → plan or copy → record; several images at once
plan_writer.py      what a request comes to, written as it is found, divided into copy units
claims.py           a unit is given to one worker, under a fencing token; why it stops; the slots of a worker
progress_writer.py  results and progress of a unit's images, written in batches under the fence
heartbeat.py        which workers are alive; a unit whose worker is not is stalled
shared_state.py     what workers share: concurrency windows, blob locations, open uploads
registry_states.py  how registries stand, as `state` and metrics show it
scheduler.py        policies that are due
notifier.py         notifications that are due
summary_writer.py   a message for each policy, once a day
"""
