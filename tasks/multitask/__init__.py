"""Several tasks that are trained together, on one backbone."""
