"""Language models behind one interface: transformers, and scripted toys for tests."""
