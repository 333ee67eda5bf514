"""How fast is this machine at what the project does?"""
