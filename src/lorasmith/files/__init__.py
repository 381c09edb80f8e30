"""Operations from files to files: convert, resize, extract, merge and combine LoRAs. No model is loaded."""
