"""A page of streamlit."""
import streamlit

streamlit.write("hello")
