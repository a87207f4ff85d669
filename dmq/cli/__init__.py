from .main import main as main
from .main import parser as parser
