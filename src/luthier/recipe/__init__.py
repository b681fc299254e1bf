"""The PyTorch training recipe, with every knob a hyperparameter. The only room that imports torch."""

from luthier.recipe.digits import digits, digits_recipe
from luthier.recipe.models import CNN, MLP
from luthier.recipe.recipe import Recipe
from luthier.recipe.schedules import lr_factor

__all__ = ["CNN", "MLP", "Recipe", "digits", "digits_recipe", "lr_factor"]
