"""Pictures of what transformers look at: `calls` records it, `frames` says where it lies, `strips` draws it."""
