WHOSE = "example.pkg"
