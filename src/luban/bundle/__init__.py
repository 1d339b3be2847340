"""The sealed folder that predicts, and the engine that opens it."""
