"""The viewer: one page that shows what a model looks at, served from this machine or as a file.

``session.py``      models, images and their records
``answers.py``      records as a JSON header with numbers behind it
``server.py``       the page and its answers on 127.0.0.1
``static_page.py``  the page with all answers inside, for a file that needs no server
``viewer.html``     the page
"""

from .server import ViewerServer
from .session import Session, Subject, sample_images
from .static_page import StaticPage, static_page

__all__ = [
    "Session",
    "StaticPage",
    "Subject",
    "ViewerServer",
    "sample_images",
    "static_page",
]
