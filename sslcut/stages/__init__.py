"""The pipeline's stages, one file each; no stage calls another."""
