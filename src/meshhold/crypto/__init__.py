"""The only room that imports crypto libraries."""
