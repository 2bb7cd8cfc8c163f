"""What is kept of requests that were served: lines of a log, and counters. Decides no answer."""
