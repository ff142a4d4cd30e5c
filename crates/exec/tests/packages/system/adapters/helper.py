WHOSE = "system"
