"""What tests share: definitions to compare with, inputs and checks, and programs that tests start."""
