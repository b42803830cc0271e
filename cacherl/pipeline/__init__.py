"""The main job, end to end, over the services' REST APIs: logs in, a trained policy and a report out.

`plan` says what a run is, `names` what its things are called, `prepare` fills datasets and caches, `recipe` lays the jobs out,
`watch` shows them, `state` makes a run resumable, `facts` is what a run leaves for its report, `run` is the table of contents.
"""
