"""How the starter model is made: a text world, the skills trained on it, and the training itself.

Content is data in `world/*.yaml`; everything else here is code that reads it. Not shipped.
"""
