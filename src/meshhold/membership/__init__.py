"""Who is in the mesh, and who of them lives? SWIM with Lifeguard as pure decisions; knows no link, clock or disk."""
