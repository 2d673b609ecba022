"""The dialects that clients speak: each turns the frames of a stream into the shapes that its clients expect."""
