"""What is trained: a task joins model, penalty, optimizer and schedule."""
