"""Drawing over images: text that can be read at any size, tags that hide little, legends.

``canvas``   an image made large enough to draw on, with the sizes of lines and letters
``text``     fonts, and black or white letters on a colour
``tags``     where names of boxes go so that they hide neither each other nor small objects
``legend``   colours and what they mean, below a picture
"""
