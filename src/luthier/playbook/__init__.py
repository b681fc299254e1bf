"""The stages of a practitioner, in their order, as a scheduler."""
