"""Operations on files: LoRAs changed into other LoRAs, LoRAs out of checkpoints and into them. No model is loaded."""
