"""The models as timm's: registered by name, once timm is imported."""
