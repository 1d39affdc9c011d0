"""The command line: processes (`serve`, `work`), administration (`migrate`) and clients (`sync`, `watch`).

main.py               the commands, and those of the service itself
serving.py            `serve` and `work`: the processes of a host; http_protocol.py: limits of its HTTP connections
doctor.py             what is wrong with an installation
sync_commands.py      `sync`, `plan`, `jobs`; plan_output.py: a plan as text
watch.py              live bars of a job, from any machine that reaches the API
policy_commands.py    policies as files: diff, apply, export
resource_commands.py  registries, subscriptions, keys, the audit log
options.py            options that several commands have; key_options.py: those of keys
api_client.py         the API as commands ask it; api_errors.py: its errors, in words of the command line
local_service.py      `--local`: a service of this command's own, in a temporary_folder.py
man_pages.py          manual pages, made from the commands
"""
