"""The trainer's routes, one file each noun."""

from services.trainer.routes import datasets, jobs, policies

routers = [datasets.router, jobs.router, policies.router]
