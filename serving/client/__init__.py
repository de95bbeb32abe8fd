"""A Python client of the control port: the registry, typed as the registry itself is.

with RegistryClient("http://127.0.0.1:8003", token=token) as registry:
    for model in registry.search(text="fraud"):
        print(model.name, model.facts.owner)
"""

from serving.client.registry import RegistryClient

__all__ = ["RegistryClient"]
