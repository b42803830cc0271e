"""Request and response models of the four services: what goes over the wire, and what the OpenAPI documents are made from."""
