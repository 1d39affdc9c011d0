"""The command line: processes (`serve`, `work`), chores (`migrate`, `create-key`, `reseal`) and clients (`watch`).

main.py   the commands of the service
watch.py  live bars of a job, from any machine that reaches the API
"""
