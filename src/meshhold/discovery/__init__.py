"""How do nodes find each other before they are linked: on the LAN by name, and through the router from outside."""
