"""The models in timm's registry, once timm is imported."""
