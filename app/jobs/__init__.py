"""The engine room: the life of a job, from the row that says it was accepted to the row that says how it ended.

Our rows are the truth and the engine (PgQueuer) only nudges: it says which unit of a job to look at. A unit is claimed
under a fence, which every later write of that claim checks. Imports the workshop, the pipes and what lies below.
"""
