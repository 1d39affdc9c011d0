"""The tables, one file per group. What a row means is said here once; what may be done with it, by the stores."""
