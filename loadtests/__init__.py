"""Load scenarios, the benchmark suite and the models they need, each with a threshold that can fail.

`models` makes the benchmark models from a seed, `locustfile` holds the scenarios of user journeys.
Reported figures come from the benchmark suite: on two cores Locust costs more than the server.
"""
